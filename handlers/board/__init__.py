"""The sample's resources. A clone deletes this room."""
