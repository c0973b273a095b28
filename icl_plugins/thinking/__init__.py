"""Deep thinking: demonstrations are read several times, and what is left is a key-value state."""
