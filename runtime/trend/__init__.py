"""Whether the normal sound of a machine changed over days and weeks."""
