package early

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/warderd/warder/agent/identity"
	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/platform"
	"github.com/warderd/warder/platform/durable"
	"github.com/warderd/warder/sync/protocol"
)

// signed is a file as an agent writes it.
func signed(t testing.TB, device string) File {
	t.Helper()
	key, err := protocol.NewPolicyKey()
	if err != nil {
		t.Fatal(err)
	}
	jws, err := protocol.SignAssignment(key, protocol.Assignment{DeviceID: device, Serial: 7,
		Policy: json.RawMessage(`{"id":"p","version":3,"compliance":"enforce","policy_data":{"usb":{"allowed":false}}}`)})
	if err != nil {
		t.Fatal(err)
	}
	public, err := json.Marshal([]jose.JSONWebKey{key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	return File{DeviceID: device, JWS: jws, Keys: public, Notes: platform.Notes{"volume": {"UUID=1"}},
		Exceptions: []identity.Exception{{ID: "x", Section: "usb", Subject: "0951:1666", Until: time.Unix(2e9, 0).UTC()}}}
}

func written(t testing.TB, f File) string {
	t.Helper()
	text, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "etc", "early")
	if err := Write(path, text); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFile(t *testing.T) {
	f := signed(t, "d")
	path := written(t, f)
	got, doc, err := Load(path)
	if err != nil || doc.Version != 3 || doc.USB.Allowed.V || got.Notes["volume"][0] != "UUID=1" ||
		got.Exceptions[0].Subject != "0951:1666" {
		t.Fatalf("%+v %v", got, err)
	}
	text, _ := f.Encode()
	if how, absent := Differs(path, text); how != "" || absent {
		t.Errorf("%q %v", how, absent)
	}
	if how, absent := Differs(path, nil); how != path+" was changed" || absent {
		t.Errorf("%q %v", how, absent)
	}
	if how, absent := Differs(path+"x", text); how != path+"x was removed" || !absent {
		t.Errorf("%q %v", how, absent)
	}
}

// What the server did not sign for this device is refused, with the field named.
func TestFileRefused(t *testing.T) {
	other := signed(t, "d")
	for want, spoil := range map[string]func(*File){
		"jws: ":      func(f *File) { f.DeviceID = "e" },
		"jws: bad":   func(f *File) { f.Keys = other.Keys },
		"keys: ":     func(f *File) { f.Keys = json.RawMessage(`"none"`) },
		"jws: bad s": func(f *File) { f.JWS = strings.ToUpper(f.JWS) },
	} {
		f := signed(t, "d")
		spoil(&f)
		if _, _, err := Load(written(t, f)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	path := written(t, other)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for want, text := range map[string]string{
		"unexpected end":      string(good[:len(good)/2]),
		"sum: its checksum":   strings.Replace(string(good), `"device_id":"d"`, `"device_id":"e"`, 1),
		"more than 4194304 b": strings.Repeat(" ", maxFile+1),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	body := `{"version":2}`
	if _, err := Parse([]byte(`{"sum":"` + durable.Sum([]byte(body)) + `","file":` + body + `}`)); err == nil ||
		!strings.Contains(err.Error(), "version: this program knows 1 (received 2)") {
		t.Error(err)
	}
}

func TestRecord(t *testing.T) {
	run := t.TempDir()
	if r, err := Recorded(run, "b"); r != nil || err != nil {
		t.Fatalf("%v %v", r, err)
	}
	r := Record{Boot: "b", InForce: time.Second, Told: []Told{{Key: "usb.device/1-1@2", What: "denied",
		Event: enforce.Event{Subject: "s", Kind: enforce.Denied}}}}
	if err := r.Save(run); err != nil {
		t.Fatal(err)
	}
	if got, err := Recorded(run, "b"); err != nil || got.InForce != time.Second || got.Told[0].Event.Subject != "s" {
		t.Errorf("%+v %v", got, err)
	}
	if got, err := Recorded(run, "other"); got != nil || err != nil {
		t.Errorf("of another boot: %+v %v", got, err)
	}
	r.Told = make([]Told, MaxTold+1)
	if err := r.Save(run); err != nil {
		t.Fatal(err)
	}
	if _, err := Recorded(run, "b"); err == nil || !strings.Contains(err.Error(), "told: 257 are more than 256") {
		t.Error(err)
	}
	if err := errors.Join(Forget(run), Forget(run)); err != nil {
		t.Error(err)
	}
	if Ended(run, "b") {
		t.Error("it is over before an agent ran")
	}
	if err := End(run, "b"); err != nil || !Ended(run, "b") || Ended(run, "c") {
		t.Errorf("%v", err)
	}
}

func FuzzFile(f *testing.F) {
	text, _ := signed(f, "d").Encode()
	f.Add(text)
	f.Add([]byte(`{"sum":"","file":{}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if file, err := Parse(b); err == nil {
			_, _ = file.Policy()
		}
		_, _ = parseRecord(b, "b")
	})
}
