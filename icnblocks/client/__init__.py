"""The client side: sources, scheduler, fetch engine, trust. Used by devices and by edges."""
