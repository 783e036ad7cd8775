-- +goose Up
-- When an epoch of events was last written to (ms); 0: before this version. A device's oldest ones are dropped.
ALTER TABLE epochs ADD COLUMN at BIGINT NOT NULL DEFAULT 0;
