"""Varied crops of sections: geometry and intensity, faults of sections, and files of examples."""
