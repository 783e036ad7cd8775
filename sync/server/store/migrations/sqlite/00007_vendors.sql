-- +goose Up
-- What clients of other vendors' consoles have written, as they wrote it. A policy that was made of one names it. What was deleted stays as
-- a number that is not given again.
ALTER TABLE policies ADD COLUMN source TEXT NOT NULL DEFAULT '';
CREATE TABLE vendor_documents (vendor TEXT NOT NULL, kind TEXT NOT NULL, number BIGINT NOT NULL, name TEXT NOT NULL, policy TEXT NOT NULL,
	state TEXT NOT NULL, report TEXT NOT NULL, document TEXT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (vendor, kind, number));
CREATE INDEX vendor_documents_policy ON vendor_documents (policy);
CREATE INDEX assignments_policy ON assignments (policy);
