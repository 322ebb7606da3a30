"""The sample's data: tasks, teams and transfers. A clone deletes this room."""
