"""What people look at after a run: the report page, the overlay and the contact sheet; needs the extra ``report``."""
