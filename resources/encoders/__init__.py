"""What turns shots and texts into vectors."""
