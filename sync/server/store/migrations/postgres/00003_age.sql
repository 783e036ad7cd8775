-- +goose Up
-- How a device stands is known for as long as it is heard of. fresh is until when the last word of it counts,
-- looked when it looked at itself last, on its own clock; both in milliseconds.
ALTER TABLE seen ADD COLUMN fresh BIGINT NOT NULL DEFAULT 0;
ALTER TABLE seen ADD COLUMN looked BIGINT NOT NULL DEFAULT 0;
