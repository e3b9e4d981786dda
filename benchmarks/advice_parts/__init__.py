"""How good `study`'s advice is: texts, studies, grid searches, figures."""
