// Command flux-build prints as JSON what Flux's kustomize-controller would apply, by its own code.
//
//	flux-build build         of each of the Kustomizations in the JSON on standard input
//	flux-build pod-security  what Pod Security forbids of each of the pods there
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	generator "github.com/fluxcd/pkg/kustomize"
	securefs "github.com/fluxcd/pkg/kustomize/filesys"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	kustypes "sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

// object is what Flux applies, and the file that it is made from.
type object struct {
	File     string                     `json:"file"`
	Document *unstructured.Unstructured `json:"document"`
}

// result is what a Kustomization applies, which files it has, or why it cannot be built.
type result struct {
	Objects []object `json:"objects"`
	Files   []string `json:"files"`
	Problem string   `json:"problem"`
	File    string   `json:"file"` // that the problem is in
}

// source is a folder with the files of one state of a repository; it notes which are read.
type source struct {
	filesys.FileSystem
	root string
	read map[string]bool
}

// ReadFile refuses a kustomization with a field that is none, which the controller would take away, and
// one that names something elsewhere, which kustomize would download.
func (s *source) ReadFile(path string) ([]byte, error) {
	content, err := s.FileSystem.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if name, err := filepath.Rel(s.root, path); err == nil {
		s.read[name] = true
	}
	var read kustypes.Kustomization
	if filepath.Base(path) == "kustomization.yaml" {
		if err := read.Unmarshal(content); err != nil {
			return nil, err
		}
		for _, name := range slices.Concat(read.Resources, read.Components, read.Crds) {
			if !generator.IsLocalRelativePath(name) {
				return nil, fmt.Errorf("%s is outside of git: copy it here, at one version", name)
			}
		}
	}
	return content, nil
}

var twoDollars = regexp.MustCompile(`\$\$[^{\s][^\s]*`)

// build fills in a result; the error is about the file that is returned with it.
func (r *result) build(k object, roots map[string]string) (string, error) {
	k.Document = k.Document.DeepCopy()
	title := "Kustomization/" + k.Document.GetName()
	text := func(fields ...string) string {
		found, _, _ := unstructured.NestedString(k.Document.Object, fields...)
		return found
	}
	name := text("spec", "sourceRef", "name")
	if roots[name] == "" {
		return k.File, fmt.Errorf("%s: spec.sourceRef.name: there is no %q: say facestack, or pin a commit in version.yaml", title, name)
	}
	root, err := filepath.EvalSymlinks(roots[name])
	if err != nil {
		return k.File, err
	}
	disk, err := securefs.MakeFsOnDiskSecure(root)
	if err != nil {
		return k.File, err
	}
	// What the controller writes into its copy stays in memory.
	from := &source{securefs.MakeFsInMemory(disk), root, map[string]bool{}}
	defer func() { r.Files = slices.Sorted(maps.Keys(from.read)) }()
	path := filepath.Clean(text("spec", "path"))
	folder, file := filepath.Join(root, path), filepath.Join(path, "kustomization.yaml")
	if !from.IsDir(folder) {
		return k.File, fmt.Errorf("%s: spec.path: there is no folder %s in git", title, path)
	}
	// So that every object says which file it is from; Flux itself does without.
	_ = unstructured.SetNestedStringSlice(k.Document.Object, []string{"originAnnotations"}, "spec", "buildMetadata")
	written, name, action, err := generator.NewGenerator(root, *k.Document).GenerateManifest(folder)
	if err != nil {
		return file, err
	}
	if action == generator.CreatedAction {
		return file, errors.New("is missing: without it Flux takes every YAML file there is")
	}
	if _, err := from.ReadFile(name); err != nil {
		return file, err
	}
	if err := from.WriteFile(name, written); err != nil {
		return file, err
	}
	built, err := generator.Build(from, folder)
	if err != nil {
		return file, errors.New(strings.ReplaceAll(err.Error(), root+"/", ""))
	}
	_, substitutes, _ := unstructured.NestedMap(k.Document.Object, "spec", "postBuild")
	labels, _, _ := unstructured.NestedStringMap(k.Document.Object, "spec", "commonMetadata", "labels")
	annotations, _, _ := unstructured.NestedStringMap(k.Document.Object, "spec", "commonMetadata", "annotations")
	for _, res := range built.Resources() {
		one := object{file, &unstructured.Unstructured{}}
		// What a kustomization generates is from that kustomization.
		if origin, err := res.GetOrigin(); err == nil && origin != nil {
			one.File = filepath.Join(path, origin.Path+origin.ConfiguredIn)
		}
		if err := res.SetOrigin(nil); err != nil {
			return one.File, err
		}
		if substitutes {
			before := res.MustYaml()
			// The caller has put the facts into spec.postBuild.substitute, so no cluster is asked.
			done, err := generator.SubstituteVariables(context.Background(), nil, *k.Document, res,
				generator.SubstituteWithDryRun(true), generator.SubstituteWithStrict(true))
			if found := twoDollars.FindString(before); err == nil && done != nil && found != "" {
				err = fmt.Errorf("Flux makes one $ of the two in '%s': write one", found)
			}
			if err != nil {
				return one.File, fmt.Errorf("%s/%s: %w", res.GetKind(), res.GetName(), err)
			}
		}
		content, err := res.MarshalJSON()
		if err == nil {
			err = one.Document.UnmarshalJSON(content)
		}
		if err != nil {
			return one.File, err
		}
		ssautil.SetCommonMetadata([]*unstructured.Unstructured{one.Document}, labels, annotations)
		r.Objects = append(r.Objects, one)
	}
	return "", nil
}

func build(input *json.Decoder, output *json.Encoder) error {
	var given struct {
		Sources        map[string]string `json:"sources"` // folders by the GitRepository's name
		Kustomizations []object          `json:"kustomizations"`
	}
	if err := input.Decode(&given); err != nil {
		return err
	}
	results := make([]result, len(given.Kustomizations))
	for i, k := range given.Kustomizations {
		if file, err := results[i].build(k, given.Sources); err != nil {
			results[i] = result{Problem: err.Error(), File: file}
		}
	}
	return output.Encode(results)
}

// podSecurity prints of each pod what the labels of its namespace forbid.
func podSecurity(input *json.Decoder, output *json.Encoder) error {
	var given []struct {
		Labels map[string]string      `json:"labels"`
		Pod    corev1.PodTemplateSpec `json:"pod"`
	}
	if err := input.Decode(&given); err != nil {
		return err
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	unsaid := api.Policy{Enforce: api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()}}
	found := make([]map[string]string, len(given))
	for i, one := range given {
		found[i] = map[string]string{}
		labels, wrong := api.PolicyToEvaluate(one.Labels, unsaid)
		for _, err := range wrong {
			found[i]["labels of its namespace"] = err.Error()
		}
		for _, result := range evaluator.EvaluatePod(labels.Enforce, &one.Pod.ObjectMeta, &one.Pod.Spec) {
			if !result.Allowed {
				level := labels.Enforce.Level
				found[i][result.ForbiddenReason] = fmt.Sprintf("%s (Pod Security %s)", result.ForbiddenDetail, level)
			}
		}
	}
	return output.Encode(found)
}

func main() {
	// It ends before garbage matters: there is little to collect, and what kustomize reads to begin with stays.
	debug.SetGCPercent(400)
	tasks := map[string]func(*json.Decoder, *json.Encoder) error{"build": build, "pod-security": podSecurity}
	err := errors.New("usage: flux-build build|pod-security <INPUT")
	if task := tasks[strings.Join(os.Args[1:], " ")]; task != nil {
		err = task(json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "flux-build:", err)
		os.Exit(1)
	}
}
