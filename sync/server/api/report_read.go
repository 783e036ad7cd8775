package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/enforce/policy"
	"github.com/warderd/warder/sync/protocol"
)

// received is a report as this version understands it, with its parts unchanged: a newer agent's words are kept with
// its device, and count as unknown in sums over devices.
type received struct {
	protocol.Report
	device, findings json.RawMessage
	events           []json.RawMessage
}

// receive reads a report. Unknown fields come from a newer agent. What is stored unchanged is read strictly: no
// duplicate names, names only in their exact spelling, bounded depth.
func receive(body []byte) (*received, error) {
	if in := receivePlain(body); in != nil {
		return in, nil
	}
	return receiveStrictly(body)
}

// receiveStrictly reads every report, and says what is wrong with it.
func receiveStrictly(body []byte) (*received, error) {
	tree, errs := policy.ParseAtMost(body, protocol.MaxRequest)
	if err := invalid(errs); err != nil {
		return nil, err
	}
	top, ok := tree.(map[string]any)
	if !ok {
		return nil, bad("the report must be an object")
	}
	for name := range top {
		for _, part := range []string{"device", "findings", "events"} {
			if name != part && strings.EqualFold(name, part) {
				errs = append(errs, policy.Error{Field: short(name), Message: "must be written " + part, Received: short(name)})
			}
		}
	}
	for _, part := range []string{"findings", "events"} {
		list, _ := top[part].([]any)
		for i, v := range list {
			if _, is := v.(map[string]any); !is {
				errs = append(errs, policy.Error{Field: fmt.Sprintf("%s[%d]", part, i), Message: "must be an object",
					Received: fmt.Sprintf("%.40v", v)})
				break
			}
			if name := respelled(v); name != "" {
				errs = append(errs, policy.Error{Field: fmt.Sprintf("%s[%d].%s", part, i, short(name)),
					Message: "appears more than once, in different capitals", Received: short(name)})
				break
			}
		}
	}
	if err := invalid(errs); err != nil {
		return nil, err
	}
	var in received
	raw := struct {
		Device   json.RawMessage   `json:"device"`
		Findings []json.RawMessage `json:"findings"`
		Events   []json.RawMessage `json:"events"`
	}{}
	err := json.Unmarshal(body, &in.Report)
	if err == nil {
		err = json.Unmarshal(body, &raw)
	}
	if err != nil {
		return nil, bad("the report cannot be read: " + err.Error())
	}
	in.Agent.Ended, in.Agent.Cut = word(in.Agent.Ended), enforce.Plain(short(in.Agent.Cut))
	in.Policy.Reason = enforce.Plain(in.Policy.Reason)
	in.device = compact(raw.Device)
	if in.Findings != nil {
		for i, f := range raw.Findings {
			raw.Findings[i] = tame(compact(f), findingWords)
		}
		in.findings = slices.Concat([]byte{'['}, bytes.Join(asBytes(raw.Findings), []byte{','}), []byte{']'})
	}
	for i, e := range raw.Events {
		e = tame(compact(e), eventWords)
		if len(e) > maxEvent {
			e = cut(&in.Events[i], len(e))
		}
		in.events = append(in.events, e)
	}
	return &in, nil
}

// respelled returns a name that appears twice in an object in different capitals. Readers differ in which of the two
// they take, so what is shown would not be what is counted.
func respelled(v any) string {
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			if name := respelled(e); name != "" {
				return name
			}
		}
	case map[string]any:
		seen := make(map[string]bool, len(x))
		for name, e := range x {
			folded := strings.ToLower(name)
			if seen[folded] {
				return name
			}
			seen[folded] = true
			if name := respelled(e); name != "" {
				return name
			}
		}
	}
	return ""
}

func asBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i, raw := range list {
		out[i] = raw
	}
	return out
}

// compact is JSON without white space.
func compact(raw json.RawMessage) json.RawMessage {
	var out bytes.Buffer
	if json.Compact(&out, raw) != nil {
		return nil
	}
	return out.Bytes()
}

// maxEvent bounds an event as it is stored, in bytes. An agent's own have at most half of that.
const maxEvent = 32 << 10

// cut stands for an event that is too long.
func cut(e *enforce.Event, size int) json.RawMessage {
	short := enforce.Event{Seq: e.Seq, At: e.At, Setting: word(e.Setting), Mode: e.Mode, Kind: word(e.Kind), Subject: "cut",
		Reason: fmt.Sprintf("the device sent an event of %d bytes, which is more than %d", size, maxEvent), Count: e.Count}
	b, err := json.Marshal(short)
	if err != nil { // a time that can be read but not be written; the report's check refuses it
		short.At = time.Time{}
		b, _ = json.Marshal(short)
	}
	return b
}

// maxWord bounds a word that only a newer agent knows.
const maxWord = 64

// unknownWord replaces an invalid word.
const unknownWord = "unknown"

// word returns a text if it is a valid word: short and printable.
func word[T ~string](v T) T {
	if len(v) > maxWord || strings.ContainsFunc(string(v), func(r rune) bool { return !unicode.IsPrint(r) }) {
		return unknownWord
	}
	return v
}

// The fields of a finding and of an event that contain one of our words, by their path.
var (
	findingWords = []string{"setting", "mode", "compliance", "enforcement", "evidence.state"}
	eventWords   = []string{"setting", "mode", "kind", "section", "verdict.guard", "verdict.would_mode", "done.state"}
)

// tame replaces invalid words by "unknown": one of them must not make a device's whole report useless, and none may
// reach a person's terminal.
func tame(raw json.RawMessage, fields []string) json.RawMessage {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v map[string]any
	if dec.Decode(&v) != nil {
		return raw
	}
	changed := false
	for _, f := range fields {
		changed = tameField(v, strings.Split(f, ".")) || changed
	}
	if _, cut := bounded(v, ""); cut {
		changed = true
	}
	if !changed {
		return raw
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false) // unchanged
	if enc.Encode(v) != nil {
		return raw
	}
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}

// maxText bounds a text of a finding or an event, in bytes; maxFactsText bounds an event's facts about its subject,
// which are JSON that is read again and have to stay whole.
const (
	maxText      = 4 << 10
	maxFactsText = 16 << 10
)

// bounded shortens texts that are too long, and removes what would control a terminal, because people read them.
func bounded(v any, name string) (out any, changed bool) {
	switch x := v.(type) {
	case string:
		if name == "facts" {
			if len(x) > maxFactsText {
				return "", true
			}
			return x, false
		}
		if len(x) > maxText {
			x, changed = strings.ToValidUTF8(x[:maxText], "")+"…", true
		}
		if policy.Control(x) {
			x, changed = enforce.Plain(x), true
		}
		return x, changed
	case []any:
		for i := range x {
			if y, is := bounded(x[i], name); is {
				x[i], changed = y, true
			}
		}
	case map[string]any:
		for k, y := range x {
			y, is := bounded(y, k)
			if len(k) > maxWord || policy.Control(k) {
				delete(x, k)
				k, is = enforce.Plain(strings.ToValidUTF8(k[:min(len(k), maxWord)], "")), true
			}
			if is {
				x[k], changed = y, true
			}
		}
	}
	return v, changed
}

// tameField replaces an invalid word at a path; it reports whether anything was changed.
func tameField(v any, path []string) (changed bool) {
	switch x := v.(type) {
	case []any:
		for _, e := range x {
			changed = tameField(e, path) || changed
		}
	case map[string]any:
		if len(path) > 1 {
			return tameField(x[path[0]], path[1:])
		}
		for name, field := range x { // in any spelling: some reader takes it for ours
			if s, is := field.(string); is && strings.EqualFold(name, path[0]) && word(s) != s {
				x[name], changed = unknownWord, true
			}
		}
	}
	return changed
}
