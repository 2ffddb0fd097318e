"""The selection: scored rows, output formats, publishing, the manifest."""
