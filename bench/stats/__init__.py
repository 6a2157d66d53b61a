"""How certain a score is, whether two methods differ, and how to compare over many tasks."""
