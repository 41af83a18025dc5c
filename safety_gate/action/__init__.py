"""The GitHub Action: a runner's event in, one verdict out, told where people look."""
