"""Who did what to which object: rows that nobody changes afterwards. The lowest app: it imports none of the others."""
