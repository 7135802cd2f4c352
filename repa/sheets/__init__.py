"""Pictures of many images for people to look at."""

from repa.sheets.contact_sheet import contact_sheet, save_png
from repa.sheets.sample_sheet import check_sheet, save_sheet

__all__ = ["check_sheet", "contact_sheet", "save_png", "save_sheet"]
