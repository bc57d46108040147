"""Water: net inflow of zones, and where a leak is."""
