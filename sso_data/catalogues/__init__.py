"""What is done with catalogues of principles: new ones, texts for queries, which of them work."""
