"""A report: pictures of a run (`figures`) and the page they go on (`html`)."""
