def furnish(f): pass
