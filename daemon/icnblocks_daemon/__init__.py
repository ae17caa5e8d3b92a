"""The edge cache daemon: one program for origins and edges."""
