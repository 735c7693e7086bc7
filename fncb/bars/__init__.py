"""What draws `Render`: a file for each style."""
