"""Small tools without knowledge of the method: files, pages, Ray, random choices, imports."""
