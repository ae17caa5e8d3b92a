"""Assembly: verified blocks become files of a model directory, resumable at any point."""
