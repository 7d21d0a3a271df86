"""In which order the passes of teacher and student run, what is fused, what is written back."""
