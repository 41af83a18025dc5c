"""Where files come from: a folder, or a repository on the Hub."""
