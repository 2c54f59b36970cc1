"""A proof, or a walkthrough, as one HTML file: described as plain values first, then rendered by templates."""
