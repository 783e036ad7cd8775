-- +goose Up
-- An exception is for a subject of any section. The column usb holds the subject, whatever section it is of.
ALTER TABLE exceptions ADD COLUMN section TEXT NOT NULL DEFAULT 'usb';
