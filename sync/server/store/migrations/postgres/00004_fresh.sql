-- +goose Up
-- A step of its own, so that the table is locked for a moment and not for as long as its rows are written.
UPDATE seen SET fresh = at + 600000 WHERE fresh = 0;
-- A device with a setting that cannot be verified there is not compliant: it is unverified.
UPDATE reports SET rollup = 'unverified' WHERE device IN (SELECT device FROM reports WHERE rollup = 'compliant' AND standing IN
	(SELECT hash FROM standings WHERE body LIKE '%"e":"unsupported"%'));
