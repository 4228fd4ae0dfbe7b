"""What Lamina keeps on disk. See lamina/store/root.py for the drawing."""
