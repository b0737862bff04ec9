"""What the keys of a configuration may be: declared in annotations, checked, and explained."""
