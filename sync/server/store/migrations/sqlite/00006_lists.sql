-- +goose Up
-- Lists of names that are too long for a policy. A version's text is compressed with zstd and cut into parts; its digest is
-- that of the plain text, and packed_digest that of what devices fetch.
CREATE TABLE lists (id TEXT PRIMARY KEY, name TEXT NOT NULL, version BIGINT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL);
CREATE TABLE list_versions (list TEXT NOT NULL, version BIGINT NOT NULL, digest TEXT NOT NULL, names BIGINT NOT NULL, bytes BIGINT NOT NULL,
	packed BIGINT NOT NULL, packed_digest TEXT NOT NULL, changed_by TEXT NOT NULL, changed_at BIGINT NOT NULL, PRIMARY KEY (list, version));
CREATE INDEX list_versions_digest ON list_versions (digest);
CREATE TABLE list_parts (digest TEXT NOT NULL, part BIGINT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (digest, part));
