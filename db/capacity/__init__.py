"""Who may work, and where."""
