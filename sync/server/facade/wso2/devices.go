package wso2

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/warderd/warder/enforce"
	"github.com/warderd/warder/sync/dialect"
	"github.com/warderd/warder/sync/server/facade"
	"github.com/warderd/warder/sync/server/store"
)

// device is the device in a path, of the kind that is named there; nil if there is none.
func device(c *facade.Call) (*facade.Device, error) {
	d, err := c.Fleet.Device(c.PathValue("device"))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil || d.State != store.Enrolled || !slices.Contains(c.Types[strings.ToLower(c.PathValue("type"))], d.OS) {
		return nil, err
	}
	return d, nil
}

// has is the document of which a device has, or should have, the policy, as it was applied; nil if it has one of another source.
func has(c *facade.Call, d *facade.Device) (*store.VendorDocument, *state, error) {
	if d == nil {
		return nil, nil, nil
	}
	x, err := c.Fleet.DocumentOf(d.Policy)
	if x == nil || err != nil {
		return nil, nil, err
	}
	s, err := stateOf(x)
	if err != nil || s.AppliedAt == nil {
		return nil, nil, err
	}
	if s.Applied == nil {
		s.Applied = x.Document
	}
	return x, s, nil
}

// effective answers which policy a device has.
func (f *wso2) effective(c *facade.Call) (facade.Answer, error) {
	d, err := device(c)
	if err != nil {
		return facade.Answer{}, err
	}
	x, s, err := has(c, d)
	if err != nil {
		return facade.Answer{}, err
	}
	if x == nil {
		id := c.PathValue("device")
		switch {
		case dated(c.Request):
			return facade.Answer{Status: http.StatusNoContent}, nil
		case strings.HasPrefix(c.URL.Path, phones):
			return facade.JSON(http.StatusOK, nil)
		}
		return facade.JSON(http.StatusNotFound, wrong{Message: fmt.Sprintf("No policy found for device ID '%s'%s", id, id)}) // twice, as there
	}
	at := *s.AppliedAt
	at.Updated = s.Updated
	p, err := shown(x, s.Applied, &at, dated(c.Request))
	if err != nil {
		return facade.Answer{}, err
	}
	if c.Query.Get("envelope") == "true" {
		return facade.JSON(http.StatusOK, wrapped{http.StatusOK, "Sending the effective policy.", p})
	}
	return facade.JSON(http.StatusOK, p)
}

// The objects of compliance, in the order in which the vendor prints their fields.
type (
	compliance struct {
		ID        int64         `json:"id"`
		Device    int64         `json:"deviceId"`
		Enrolment int64         `json:"enrolmentId"`
		Policy    int64         `json:"policyId"`
		Features  []complianceF `json:"complianceFeatures"`
		Status    bool          `json:"status"`
		Requested string        `json:"lastRequestedTime,omitempty"`
		Succeeded string        `json:"lastSucceededTime,omitempty"`
		Failed    string        `json:"lastFailedTime,omitempty"`
		Attempts  int           `json:"attempts"`
		Message   string        `json:"message,omitempty"`
		Complete  bool          `json:"completePolicy"`
	}
	complianceF struct {
		Code      string `json:"featureCode"`
		Compliant bool   `json:"compliance"`
		Message   string `json:"message,omitempty"`
	}
	answered struct {
		Device string      `json:"deviceID"`
		Data   *compliance `json:"complianceData,omitempty"`
	}
)

// compliance answers how a device complies with its policy: the features that it does not comply with, and why. What no laptop can do is
// among them, and so is what is not known.
func (f *wso2) compliance(c *facade.Call) (facade.Answer, error) {
	d, err := device(c)
	if err != nil {
		return facade.Answer{}, err
	}
	x, s, err := has(c, d)
	if err != nil {
		return facade.Answer{}, err
	}
	var data *compliance
	if x != nil {
		features, err := complied(c, d, x, s)
		if err != nil {
			return facade.Answer{}, err
		}
		data = &compliance{ID: d.N, Device: d.N, Policy: x.Number, Features: features, Status: len(features) == 0}
		date := newDate
		if dated(c.Request) {
			date = oldDate
		}
		if d.LastSync != nil {
			at := d.LastSync.UTC().Format(date)
			if data.Requested = at; data.Status {
				data.Succeeded = at
			} else {
				data.Failed = at
			}
		}
	}
	if dated(c.Request) {
		if data == nil {
			data = &compliance{Features: []complianceF{}}
		}
		return facade.JSON(http.StatusOK, data)
	}
	return facade.JSON(http.StatusOK, answered{c.PathValue("device"), data})
}

// complied are the features that a device does not comply with.
func complied(c *facade.Call, d *facade.Device, x *store.VendorDocument, s *state) ([]complianceF, error) {
	t, err := translated(c, x, s.Applied, s.AppliedAt)
	if err != nil {
		return nil, err
	}
	w, err := writtenOf(x, s.Applied)
	if err != nil {
		return nil, err
	}
	out := []complianceF{}
	for i, f := range w.Profile.Features {
		if why := d.Why; why != "" {
			out = append(out, complianceF{f.Code, false, why})
		} else if why := unmet(t, i, f.Code, d.Findings); why != "" {
			out = append(out, complianceF{f.Code, false, why})
		}
	}
	return out, nil
}

// unmet says why a device does not comply with one feature of its policy; "" if it does.
func unmet(t *dialect.Translation, i int, code string, findings []enforce.Finding) string {
	prefix := fmt.Sprintf("profile.profileFeaturesList[%d].", i)
	var why []string
	add := func(s string) {
		if !slices.Contains(why, s) {
			why = append(why, s)
		}
	}
	for _, l := range t.Leaves {
		if !strings.HasPrefix(l.Path, prefix) {
			continue
		}
		switch l.Fate {
		case dialect.Named, dialect.Unread:
			said := false
			for _, n := range t.Named {
				if n.Name == code || strings.HasPrefix(n.Name, code+".") {
					add(n.Name + ": " + n.Reason)
					said = true
				}
			}
			if !said {
				add(l.Path[len(prefix):] + ": no counterpart")
			}
		case dialect.Translated:
			j := slices.IndexFunc(findings, func(f enforce.Finding) bool { return f.Setting == l.Setting })
			switch {
			case j < 0:
				add(string(l.Setting) + ": not reported")
			case findings[j].Compliance != enforce.Compliant:
				add(fmt.Sprintf("%s: %s: %s", l.Setting, findings[j].Compliance, findings[j].Reason))
			}
		}
	}
	return strings.Join(why, "; ")
}

// status answers whether a device is enrolled: 200 or 204, without a body.
func (f *wso2) status(c *facade.Call) (facade.Answer, error) {
	d, err := device(c)
	if err != nil || d == nil {
		return facade.Answer{Status: http.StatusNoContent}, err
	}
	return facade.Answer{}, nil
}
