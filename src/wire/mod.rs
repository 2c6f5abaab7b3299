//! Protocol 3: bytes in, values out. Pure.
