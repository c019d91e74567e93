"""Pictures and pages that show a person how good a space is."""
