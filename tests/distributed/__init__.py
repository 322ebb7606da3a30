"""Clusters of database servers, as plain processes, under load: what clients were told stays true."""
