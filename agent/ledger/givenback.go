package ledger

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform/durable"
)

// GivenBack is what was given back a moment ago. A device that was on its way meanwhile arrives refused, and has no row:
// the agent must know this even if it is killed in between.
type GivenBack struct {
	At time.Time `json:"at"`
	// Rows are the defaults, with the baseline each was given back to.
	Rows []Row `json:"rows"`
	// There is what a plan has seen since. Whatever is not in it arrived later.
	There []enforce.Key `json:"there"`
}

// backName is the file's name in the runtime directory.
const backName = "given-back.json"

// backFile is its content.
type backFile struct {
	Boot string `json:"boot"`
	GivenBack
}

// GiveBack remembers what was given back. It does not wait for the disk, because all of it ends with the boot.
func (m *marks) GiveBack(g GivenBack) error {
	b, err := json.Marshal(backFile{m.boot, g})
	if err != nil {
		return err
	}
	return durable.Swap(m.back, b, 0o600)
}

// LastGivenBack returns what was given back last in this boot. A file that cannot be read is one that does not exist:
// it only helps devices that were plugged in at that very moment.
func (m *marks) LastGivenBack() GivenBack {
	b, err := durable.Read(m.back, maxEarly)
	if err != nil {
		return GivenBack{}
	}
	g, err := parseBack(b, m.boot)
	if err != nil {
		return GivenBack{}
	}
	return g
}

// parseBack decodes the file of this boot.
func parseBack(b []byte, boot string) (GivenBack, error) {
	var f backFile
	if err := json.Unmarshal(b, &f); err != nil || f.Boot != boot {
		return GivenBack{}, err
	}
	if len(f.Rows) > maxEarlyRows || len(f.There) > maxEarlyRows {
		return GivenBack{}, fmt.Errorf("rows, there: %d and %d are more than %d", len(f.Rows), len(f.There), maxEarlyRows)
	}
	return f.GivenBack, nil
}
