"""What the product does: settings in, typed events out. Nothing here prints."""
