"""Images for people to look at, and for other programs: contact sheets, folders of PNG files."""

from repa.sheets.contact_sheet import contact_sheet, save_png, stacked_sheets
from repa.sheets.png_folder import check_png_folder, save_png_folder
from repa.sheets.sample_sheet import check_sheet, is_sheet, save_sheet, source_sheet
from repa.sheets.titles import class_namer, sampling_title, sampling_words

__all__ = [
    "check_png_folder",
    "check_sheet",
    "class_namer",
    "contact_sheet",
    "is_sheet",
    "sampling_title",
    "sampling_words",
    "save_png",
    "save_png_folder",
    "save_sheet",
    "source_sheet",
    "stacked_sheets",
]
