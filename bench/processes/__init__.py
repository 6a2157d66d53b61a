"""The processes of one run: started together, in step with each other, stopped by signals."""
