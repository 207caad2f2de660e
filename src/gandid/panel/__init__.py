"""The panel of potential outcomes: its arm table, its schema and its store (docs/panel.md). Nothing here needs PyTorch."""
