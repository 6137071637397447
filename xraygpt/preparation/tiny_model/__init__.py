"""What a tiny model is put together from: texts, tokenizers, shipped parts."""
