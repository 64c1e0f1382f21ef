"""Normal clips to ranges, ranges to Q/DQ and float16 graphs."""
