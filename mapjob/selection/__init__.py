"""What is selected: scored rows, output formats, publishing, the manifest."""
