"""The `mediafm` command."""
