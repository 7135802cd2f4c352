"""Pictures of many images for people to look at."""

from repa.sheets.contact_sheet import contact_sheet, save_png, stacked_sheets
from repa.sheets.sample_sheet import check_sheet, save_sheet, source_sheet
from repa.sheets.titles import class_namer, sampling_title

__all__ = [
    "check_sheet",
    "class_namer",
    "contact_sheet",
    "sampling_title",
    "save_png",
    "save_sheet",
    "source_sheet",
    "stacked_sheets",
]
