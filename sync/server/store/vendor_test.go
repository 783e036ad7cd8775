package store

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warderd/warder/sync/server/fleet"
)

// vendored writes a document, and a policy of it in a version.
func vendored(t *testing.T, s *Store, policy string, version int) *VendorDocument {
	t.Helper()
	d := &VendorDocument{Vendor: "acme", Kind: "policy", Policy: policy, Document: json.RawMessage(`{"a":"ü"}`), State: json.RawMessage(`{}`), Report: json.RawMessage(`{}`)}
	must(t, s.ChangeVendor(ctx, "acme", "policy", now, func([]*VendorDocument) (*VendorChange, error) {
		p := &fleet.Policy{ID: policy, Name: "N", Active: true, Version: version, Data: json.RawMessage(`{}`), Source: "acme:1", Digest: "x", CreatedAt: now, UpdatedAt: now}
		return &VendorChange{Documents: []*VendorDocument{d}, Detail: []string{"added"}, Policies: []VendorPolicy{{Policy: p, Changes: []string{"c"},
			Assignments: []fleet.Assignment{{ID: "a-" + policy, Target: fleet.Target{Tag: "role:x"}, Priority: 7}}}}}, nil
	}))
	return d
}

func TestVendorDocuments(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		d := vendored(t, s, "policy-1", 1)
		list, err := s.VendorDocuments(ctx, "acme", "policy")
		must(t, err)
		if len(list) != 1 || !reflect.DeepEqual(list[0], d) || d.Number != 1 {
			t.Fatalf("%+v %+v", list, d)
		}
		p, err := s.Policy(ctx, "policy-1")
		must(t, err)
		if p.Source != "acme:1" {
			t.Errorf("the source is %q", p.Source)
		}
		if of, err := s.VendorDocument(ctx, "policy-1"); err != nil || of.Number != 1 {
			t.Errorf("%+v %v", of, err)
		}
		if _, err := s.VendorDocument(ctx, "policy-9"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		// Whoever writes the policy otherwise does not change its source: also a node that knows none.
		p.Source, p.Version = "", 2
		must(t, s.PutPolicy(ctx, p, 1, nil))
		if p, _ := s.Policy(ctx, "policy-1"); p.Source != "acme:1" {
			t.Errorf("the source is %q", p.Source)
		}
		st, err := s.State(ctx, nil)
		must(t, err)
		if len(st.Assignments) != 1 || st.Assignments[0].Target.Tag != "role:x" || st.Assignments[0].Priority != 7 {
			t.Errorf("%+v", st.Assignments)
		}

		// What changes nothing takes no number of the change sequence; an error leaves everything as it was.
		last := s.Last()
		same := func(targets ...fleet.Assignment) error {
			return s.ChangeVendor(ctx, "acme", "policy", now, func([]*VendorDocument) (*VendorChange, error) {
				return &VendorChange{Policies: []VendorPolicy{{Policy: p, Same: true, Assignments: targets}}}, nil
			})
		}
		must(t, same(fleet.Assignment{ID: "b", Target: fleet.Target{Tag: "role:x"}, Priority: 7}))
		must(t, s.ChangeVendor(ctx, "acme", "policy", now, func([]*VendorDocument) (*VendorChange, error) { return &VendorChange{}, nil }))
		no := errors.New("no")
		if err := s.ChangeVendor(ctx, "acme", "policy", now, func(have []*VendorDocument) (*VendorChange, error) { return nil, no }); !errors.Is(err, no) {
			t.Error(err)
		}
		stale := *p
		stale.Version = 7
		if err := s.ChangeVendor(ctx, "acme", "policy", now, func(have []*VendorDocument) (*VendorChange, error) {
			have[0].Document = json.RawMessage(`{"changed":true}`)
			return &VendorChange{Documents: have, Policies: []VendorPolicy{{Policy: &stale}}}, nil
		}); !errors.Is(err, ErrStale) {
			t.Error(err)
		}
		if list, _ := s.VendorDocuments(ctx, "acme", "policy"); string(list[0].Document) != `{"a":"ü"}` || s.Last() != last {
			t.Errorf("%s %d %d", list[0].Document, s.Last(), last)
		}
		must(t, same(fleet.Assignment{ID: "b", Target: fleet.Target{Tag: "role:y"}, Priority: 7}))
		if s.Last() != last+1 {
			t.Errorf("%d after %d", s.Last(), last)
		}

		// What is deleted takes its policy and its groups along, and its number is not given again. The default stays.
		must(t, s.SetDefault(ctx, "policy-1", now))
		remove := func() error {
			return s.ChangeVendor(ctx, "acme", "policy", now, func(have []*VendorDocument) (*VendorChange, error) {
				have[0].Gone = true
				return &VendorChange{Documents: have[:1], Policies: []VendorPolicy{{Policy: p, Delete: true}}}, nil
			})
		}
		if err := remove(); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
		put(t, s, "policy-d", 0, true)
		must(t, s.SetDefault(ctx, "policy-d", now))
		must(t, remove())
		if _, err := s.Policy(ctx, "policy-1"); !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		st, err = s.State(ctx, nil)
		must(t, err)
		if len(st.Assignments) != 0 {
			t.Errorf("%+v", st.Assignments)
		}
		if d := vendored(t, s, "policy-3", 1); d.Number != 2 {
			t.Errorf("number %d", d.Number)
		}
		audit, _, err := s.Audit(ctx, AuditFilter{Action: "vendor."}, 0, 10)
		must(t, err)
		if len(audit) != 3 || audit[1].Action != "vendor.deleted" || audit[1].Subject != "acme:1" {
			t.Errorf("%+v", audit)
		}
	})
}

// What a façade writes, and what administrators do meanwhile, lock the same rows in the same order: nobody has to begin again.
func TestVendorBesideOthers(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		for i := range 5 {
			put(t, s, fmt.Sprintf("policy-%d", i), 0, true)
		}
		put(t, s, "policy-z", 0, true)
		must(t, s.SetDefault(ctx, "policy-z", now))
		var wg sync.WaitGroup
		for n := range 2 {
			wg.Go(func() {
				for i := range 20 {
					id := []string{"policy-z", fmt.Sprintf("policy-%d", i%5)}[(i+n)%2]
					// Who meets one that is inactive just then is told so; nobody meets a deadlock.
					if err := s.once(ctx, func(tx *sql.Tx) error {
						if err := s.setDefault(ctx, tx, id); err != nil {
							return err
						}
						_, err := s.next(ctx, tx)
						return err
					}); err != nil && !errors.Is(err, ErrInUse) {
						t.Error(err)
					}
				}
			})
		}
		for i := range 20 {
			err := s.ChangeVendor(ctx, "acme", "policy", now, func([]*VendorDocument) (*VendorChange, error) {
				c := &VendorChange{}
				for k := 4; k >= 0; k-- {
					p, err := s.Policy(ctx, fmt.Sprintf("policy-%d", k))
					if err != nil {
						return nil, err
					}
					p.Version, p.Active = p.Version+1, (i+k)%2 == 0
					c.Policies = append(c.Policies, VendorPolicy{Policy: p, Assignments: []fleet.Assignment{{Target: fleet.Target{Tag: fmt.Sprint("t", i)}}}})
				}
				return c, nil
			})
			if err != nil && !errors.Is(err, ErrInUse) {
				t.Error(err)
			}
		}
		wg.Wait()
	})
}

// A deletion here while a façade writes: what was deleted stays so.
func TestVendorDeletedMeanwhile(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		vendored(t, s, "policy-1", 1)
		put(t, s, "policy-d", 0, true)
		must(t, s.SetDefault(ctx, "policy-d", now))
		begun, done := make(chan bool), make(chan error, 1)
		go func() {
			<-begun
			done <- s.DeletePolicy(ctx, "policy-1", 0, now)
		}()
		must(t, s.ChangeVendor(ctx, "acme", "policy", now, func(have []*VendorDocument) (*VendorChange, error) {
			close(begun)
			time.Sleep(200 * time.Millisecond)
			have[0].Document = json.RawMessage(`{"changed":true}`)
			return &VendorChange{Documents: have}, nil
		}))
		must(t, <-done)
		if list, err := s.VendorDocuments(ctx, "acme", "policy"); err != nil || len(list) != 0 {
			t.Errorf("%+v %v", list, err)
		}
		audit, _, err := s.Audit(ctx, AuditFilter{Action: "policy.deleted"}, 0, 10)
		must(t, err)
		if len(audit) != 1 || !reflect.DeepEqual(audit[0].Detail, []string{"deleted with it: acme:1"}) {
			t.Errorf("%+v", audit)
		}
	})
}

// There is room for so many groups of other consoles, and always for fewer.
func TestVendorGroups(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		p := &fleet.Policy{ID: "policy-1", Name: "N", Active: true, Version: 1, Data: json.RawMessage(`{}`), Source: "acme:1", CreatedAt: now, UpdatedAt: now}
		give := func(n int, same bool) error {
			return s.ChangeVendor(ctx, "acme", "policy", now, func([]*VendorDocument) (*VendorChange, error) {
				v := VendorPolicy{Policy: p, Same: same}
				for i := range n {
					v.Assignments = append(v.Assignments, fleet.Assignment{Target: fleet.Target{Tag: fmt.Sprint("t", i)}})
				}
				return &VendorChange{Policies: []VendorPolicy{v}}, nil
			})
		}
		if err := give(901, false); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "901") {
			t.Error(err)
		}
		must(t, give(900, false))
		for i := range 60 {
			must(t, s.AddAssignment(ctx, fleet.Assignment{ID: fmt.Sprint("own", i), Policy: "policy-1", CreatedAt: now}))
		}
		must(t, give(899, true))
		must(t, give(900, true))
		if err := give(901, true); !errors.Is(err, ErrInUse) {
			t.Error(err)
		}
	})
}

// Many at once: each has a number of its own, and sees what those before it have written.
func TestVendorsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, s *Store) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := s.ChangeVendor(ctx, "acme", "policy", now, func(have []*VendorDocument) (*VendorChange, error) {
					time.Sleep(5 * time.Millisecond)
					return &VendorChange{Documents: []*VendorDocument{{Vendor: "acme", Kind: "policy", Document: json.RawMessage(strings.Repeat(`1`, len(have)+1))}}}, nil
				}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		list, err := s.VendorDocuments(ctx, "acme", "policy")
		must(t, err)
		for i, d := range list {
			if d.Number != int64(i+1) || len(d.Document) != i+1 {
				t.Errorf("%d: %+v", i, d)
			}
		}
		if len(list) != 8 {
			t.Errorf("%d documents", len(list))
		}
	})
}
