"""How the tiny models shipped under bench/models were pretrained."""
