"""The schema: migrations, and what keeps them safe."""
