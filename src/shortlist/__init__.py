"""Search that works in any language on an ordinary CPU."""
