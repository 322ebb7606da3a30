"""What docs/recipes.md shows, a module each."""
